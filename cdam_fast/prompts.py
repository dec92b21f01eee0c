"""Class names and prompts: the augmented text prompts of CDAM and the class lists of three benchmarks."""

# fmt: off
AUGMENTED_TEXT_PROMPTS: tuple[str, ...] = (
    "black", "light blue", "blue", "dark blue", "light brown", "brown", "dark brown", "light green", "green",
    "dark green", "light grey", "grey", "dark grey", "light orange", "orange", "dark orange", "light pink", "pink",
    "dark pink", "light purple", "purple", "dark purple", "light red", "red", "dark red", "white", "light yellow",
    "yellow", "dark yellow", "plain", "striped", "dotted", "checkered", "woven", "studded", "perforated", "floral",
    "logo", "text", "stone", "wood", "rattan", "fabric", "crochet", "wool", "leather", "velvet", "metal", "paper",
    "plastic", "glass", "ceramic", "opaque", "translucent", "transparent", "person", "vehicle", "outdoor", "animal",
    "accessory", "sports", "kitchen", "food", "furniture", "electronic", "appliance", "indoor", "water", "ground",
    "solid", "sky", "structural", "building", "textile", "window", "floor", "ceiling", "wall", "rawmaterial",
    "plant",
)
"""The 80 augmented text prompts (Table 4): 55 attributes, then 25 super-categories."""

VOC21: tuple[str, ...] = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
)
"""PASCAL VOC 2012: background and 20 classes."""

CONTEXT60: tuple[str, ...] = (
    "background", "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle",
    "building", "bus", "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain",
    "dog", "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike",
    "mountain", "mouse", "person", "plate", "platform", "potted plant", "road", "rock", "sheep", "shelves",
    "sidewalk", "sign", "sky", "snow", "sofa", "table", "track", "train", "tree", "truck", "tv monitor", "wall",
    "water", "window", "wood",
)
"""PASCAL Context: background and the 59 frequent classes."""

COCO_OBJECT: tuple[str, ...] = (
    "background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep",
    "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)
"""COCO: background and the 80 classes of things."""

# fmt: on

CLASS_LISTS: dict[str, tuple[str, ...]] = {"VOC21": VOC21, "Context60": CONTEXT60, "COCO-Object": COCO_OBJECT}
"""The three lists by the paper's names, smallest first."""
