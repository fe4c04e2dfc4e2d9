from .baking import bake, export_baked, export_peft
from .incoming import from_peft
from .merging import export_merged
