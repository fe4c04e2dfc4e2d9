from .base import ImageEncoder
from .encoders import load_image_encoder
from .images import content_hash, load_image
from .spec import VisualSpec
from .store import FeatureStore
