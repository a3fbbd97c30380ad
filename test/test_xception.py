"""The network against the published state dict and the upstream network's logits."""
from common.xception import Xception

import numpy as np
import torch


def test_state_dict_has_the_published_names_order_dtypes_and_shapes(reference_rows):
    state = Xception().state_dict()
    found = [(name, str(tensor.dtype).replace("torch.", ""), tuple(tensor.shape)) for name, tensor in state.items()]
    assert found == reference_rows
    assert len(found) == 276


def test_parameter_count():
    assert sum(parameter.numel() for parameter in Xception().parameters()) == 22_855_952


def test_logits_equal_the_upstream_networks(reference_state, reference_images, reference_logits):
    network = Xception().eval()
    network.load_state_dict(reference_state, strict=True)
    with torch.inference_mode():
        logits = network(torch.from_numpy(reference_images)).numpy()
    assert np.abs(logits - reference_logits).max() <= 1e-5 * np.abs(reference_logits).max()


def test_class_count_is_a_parameter():
    network = Xception(num_classes=7).eval()
    with torch.inference_mode():
        assert network(torch.zeros(3, 3, 299, 299)).shape == (3, 7)


def test_a_block_does_not_change_its_input():
    """The shortcut adds what came in, not what the first ReLU left of it."""
    x = torch.randn(1, 3, 299, 299)
    network = Xception(num_classes=2).eval()
    features = torch.randn(1, 728, 19, 19)
    before = features.clone()
    with torch.inference_mode():
        network.block4(features)
        network(x)
    assert torch.equal(features, before)
