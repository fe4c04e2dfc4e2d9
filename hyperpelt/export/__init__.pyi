from .baking import bake, export_peft
from .merging import export_merged
