"""What measures: layer geometry, kernels, spectra of samples, quality."""
