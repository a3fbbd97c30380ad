"""CPU stand-ins for CANN's tools, and the modules behind them."""
