"""What a run is made of: typed settings and the presets that change them."""
