from prunetune.training.augment import AUGMENTATIONS as AUGMENTATIONS
from prunetune.training.augment import Augmentation as Augmentation
from prunetune.training.recipe import Recipe as Recipe
from prunetune.training.recipe import Schedule as Schedule
