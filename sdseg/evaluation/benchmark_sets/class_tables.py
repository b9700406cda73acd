"""The classes of each set, and tables from values in label files to class ids.

A table is int16 [256]: value in the file -> class id, VOID, or UNKNOWN for values that a valid file never has.
"""

import numpy as np

from sdseg.evaluation.benchmark_sets.items import VOID

UNKNOWN = -2


def label_table(ids: dict[int, int], void: tuple[int, ...] = (255,)) -> np.ndarray:
    """{value in the file: class id} and the values that mean void -> table."""
    table = np.full(256, UNKNOWN, np.int16)
    table[list(void)] = VOID
    table[list(ids)] = list(ids.values())
    return table


def identity_table(count: int, void: tuple[int, ...] = (255,)) -> np.ndarray:
    """Values 0 … count − 1 are the class ids."""
    return label_table({label: label for label in range(count)}, void)


VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()

# 27 of the 34 label ids; 0 to 6 (unlabelled, ego vehicle, border, out of ROI, static, dynamic, ground) are void.
CITYSCAPES_27 = [
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
]  # fmt: skip
CITYSCAPES_TABLE = label_table({7 + label: label for label in range(27)}, (0, 1, 2, 3, 4, 5, 6, 255))

# COCO-Stuff's 12 supercategories of things and 15 of stuff (Ji et al., IIC, 2019; Cho et al., PiCIE, 2021).
COCO_STUFF_27 = [
    "electronic", "appliance", "food", "furniture", "indoor", "kitchen", "accessory", "animal", "outdoor", "person",
    "sports", "vehicle", "ceiling", "floor", "food-stuff", "furniture-stuff", "raw material", "textile", "wall",
    "window", "building", "ground", "plant", "sky", "solid", "structural", "water",
]  # fmt: skip
# Things: (first value, last value, class). Values in the files are COCO's ids less one.
_THINGS = [
    (0, 0, 9), (1, 8, 11), (9, 14, 8), (15, 24, 7), (25, 32, 6), (33, 42, 10), (43, 50, 5), (51, 60, 2), (61, 70, 3),
    (71, 76, 0), (77, 82, 1), (83, 90, 4),
]  # fmt: skip
_STUFF = [  # values 91 … 181
    17, 17, 22, 20, 20, 22, 15, 25, 16, 13, 12, 12, 17, 17, 23, 15, 15, 17, 15, 21, 15, 25, 13, 13, 13, 13, 13, 22, 26,
    14, 14, 15, 22, 21, 21, 24, 20, 22, 15, 17, 16, 15, 22, 24, 21, 17, 25, 16, 21, 17, 22, 16, 21, 21, 25, 21, 26, 21,
    24, 20, 17, 14, 21, 26, 15, 23, 20, 21, 24, 15, 24, 22, 25, 15, 20, 17, 17, 22, 14, 18, 18, 18, 18, 18, 18, 18, 26,
    26, 19, 19, 24,
]  # fmt: skip
COCO_STUFF_TABLE = label_table(
    {value: label for first, last, label in _THINGS for value in range(first, last + 1)}
    | {91 + index: label for index, label in enumerate(_STUFF)}
)

# The few-shot sets of Baranchuk et al. (2021), in the order of their labels.
BEDROOM_28 = [  # label 0, background, is ignored there, so the classes start at 1
    "bed", "bed footboard", "bed headboard", "bed side rail", "carpet", "ceiling", "chandelier or ceiling fan blade",
    "curtain", "cushion", "floor", "table, nightstand or dresser", "top of table, nightstand or dresser",
    "picture or mirror", "pillow", "lamp column", "lamp shade", "wall", "window", "curtain rod", "window frame",
    "chair", "frame of picture or mirror", "plinth", "door or door frame", "pouf", "wardrobe", "plant",
    "things on a table",
]  # fmt: skip
FFHQ_34 = [
    "background", "head", "cheek", "chin", "ear", "ear helix", "ear lobule", "eye bottom lid", "eyelashes", "iris",
    "pupil", "sclera", "tear duct", "eye top lid", "eyebrow", "forehead", "frown", "hair", "sideburns", "jaw",
    "moustache", "inferior lip", "oral commissure", "superior lip", "teeth", "neck", "nose", "ala of nose",
    "nose bridge", "nose tip", "nostril", "philtrum", "temple", "wrinkles",
]  # fmt: skip
CAT_15 = [
    "background", "back", "belly", "chest", "leg", "paw", "head", "ear", "eye", "mouth", "tongue", "nose", "tail",
    "whiskers", "neck",
]  # fmt: skip
HORSE_21 = [
    "background", "person", "back", "barrel", "bridle", "chest", "ear", "eye", "forelock", "head", "hoof", "leg",
    "mane", "muzzle", "neck", "nostril", "tail", "thigh", "saddle", "shoulder", "leg protection",
]  # fmt: skip
CELEBA_19 = [
    "background", "cloth", "earring", "eyeglasses", "hair", "hat", "left brow", "left ear", "left eye", "lower lip",
    "mouth", "neck", "necklace", "nose", "right brow", "right ear", "right eye", "skin", "upper lip",
]  # fmt: skip
ADE_BEDROOM_30 = [
    "wall", "bed", "floor", "table", "lamp", "ceiling", "painting", "windowpane", "pillow", "curtain", "cushion",
    "door", "chair", "cabinet", "chest", "mirror", "rug", "armchair", "book", "sconce", "plant", "wardrobe", "clock",
    "light", "flower", "vase", "fan", "box", "shelf", "television",
]  # fmt: skip
FEW_SHOT = {  # set -> (class names, table)
    "bedroom_28": (BEDROOM_28, label_table({1 + label: label for label in range(28)}, (0, 255))),
    "ffhq_34": (FFHQ_34, identity_table(34)),
    "cat_15": (CAT_15, identity_table(15)),
    "horse_21": (HORSE_21, identity_table(21)),
    "celeba_19": (CELEBA_19, identity_table(19)),
    "ade_bedroom_30": (ADE_BEDROOM_30, identity_table(30)),
}

MNIST = ["background", *(f"digit {digit}" for digit in range(10))]
