"""The offline builder: corpus and two models in, a bundle out."""
