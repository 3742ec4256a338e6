"""How strong corruptions are. No NumPy: recipes are checked with their names."""

# name -> parameter at severity 1..5; of defocus_blur the radius and the
# standard deviation of its edge, in pixels
SEVERITIES = {
  'gaussian_noise': (0.04, 0.06, 0.08, 0.09, 0.10),
  'shot_noise': (500, 250, 100, 75, 50),
  'impulse_noise': (0.01, 0.02, 0.03, 0.05, 0.07),
  'speckle_noise': (0.06, 0.10, 0.12, 0.16, 0.20),
  'gaussian_blur': (0.4, 0.6, 0.7, 0.8, 1.0),
  'defocus_blur': ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
  'brightness': (0.05, 0.10, 0.15, 0.20, 0.30),
  'contrast': (0.75, 0.50, 0.40, 0.30, 0.15),
}
NUM_SEVERITIES = 5
