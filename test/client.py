"""Run a script by a launcher.py, which starts it about three times as fast: the `python3` of tests with many runs.

Usage:    python3 -IS test/client.py ADDRESS OTHER NAMES SCRIPT [ARGUMENT...]    (conftest.quick_python() calls it)

ADDRESS is the abstract socket of the launcher.py to use, OTHER that of the one for the scripts in NAMES. Python itself
runs what is not a script (-c, -m) or takes over a descriptor. The script is no child of this process, so tests that
kill or interrupt it use the real python3.
"""
import _socket  # socket takes 15 ms to import, and json 10
import array
import marshal
import os
import sys

address, other, names, *words = sys.argv[1:]
if not words or words[0].startswith("-") or any("--descriptor" in word for word in words):
    os.execv(sys.executable, [sys.executable, *words])
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
connection.connect(f"\0{other if os.path.basename(words[0]) in names.split() else address}")
connection.sendmsg([marshal.dumps([words, os.getcwd(), dict(os.environ)])],
                   [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
status = int(connection.recv(100) or 1)
sys.exit(status if status >= 0 else 128 - status)
