"""Open-vocabulary segmentation: an image and a list of words to a label for every pixel (section 3.2.4)."""
