"""KuaiRand-Pure as a TensorFlow data set."""
