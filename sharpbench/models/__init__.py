"""Networks by name."""

from .char_transformer import CharTransformer, char_transformer
from .densenet import densenet, densenet121, densenet_narrow
from .pyramidnet import pyramidnet, pyramidnet110, pyramidnet_narrow
from .registry import MODELS, ModelEntry, build_model
from .resnet import resnet18, resnet18_narrow
from .resnet_imagenet import resnet18_imagenet, resnet50_imagenet, resnet50_narrow
from .shapes import ImageShape, Kind, Shape, TokenShape
from .small import mlp, small_cnn
from .vgg import vgg16_bn, vgg_narrow
from .vit import VisionTransformer, tiny_vit, vit_s16
from .wide_resnet import wide_resnet, wrn28_10, wrn_narrow

__all__ = [
    "MODELS",
    "CharTransformer",
    "ImageShape",
    "Kind",
    "ModelEntry",
    "Shape",
    "TokenShape",
    "VisionTransformer",
    "build_model",
    "char_transformer",
    "densenet",
    "densenet121",
    "densenet_narrow",
    "mlp",
    "pyramidnet",
    "pyramidnet110",
    "pyramidnet_narrow",
    "resnet18",
    "resnet18_imagenet",
    "resnet18_narrow",
    "resnet50_imagenet",
    "resnet50_narrow",
    "small_cnn",
    "tiny_vit",
    "vgg16_bn",
    "vgg_narrow",
    "vit_s16",
    "wide_resnet",
    "wrn28_10",
    "wrn_narrow",
]
