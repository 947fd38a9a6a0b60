"""What the chapters show: figures, sliders, self-checks of the exercises."""
