AUGMENTATIONS = {"none": None, "multiscale": None, "short_side": None, "randaugment": None}
