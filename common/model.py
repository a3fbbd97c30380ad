"""Facts about the network, each with its source. To port another network, start here.

The module itself is common/xception.py; this file needs no torch.
"""
NAME = "xception"
INPUT, OUTPUT = "image", "class"  # names in the ONNX file, and so in the om
OPSET = 11  # the only one that CANN 5.0.1 accepts
NUM_CLASSES = 1000  # ImageNet
BACKGROUND_CLASSES = NUM_CLASSES + 1  # with class 0 for the background, as in TensorFlow's models

# tstandley/Xception-PyTorch, xception.py
SIDE = 299  # pixels, height and width of the input
SHORT_SIDE = 333  # pixels before the center crop
MEAN = STD = 0.5  # per channel, of values from 0 to 1

PORT_SHORT_SIDE = 342  # pixels; ACL_PyTorch/contrib/cv/classfication/xception in Ascend/ModelZoo-PyTorch
PORT_TOP1 = 78.35  # percent, of that port on Ascend 310

# tstandley/Xception-PyTorch, README.md; the accuracy is of ImageNet's validation images, in percent
PUBLISHED_NAME = "xception-c0a72b38.pth.tar"
PUBLISHED_MD5 = "203a36dce3e49d45e5d742efbad5ba65"
PUBLISHED_TOP1, PUBLISHED_TOP5 = 78.892, 94.292
