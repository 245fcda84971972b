"""AdWorld as a TensorFlow data set."""
