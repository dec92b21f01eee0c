"""The image towers that the base methods run on, a kind of model a file, all behind `ImageTower`."""
