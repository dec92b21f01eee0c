"""The page as a Hugging Face Space: the host runs this file, and shows what listens on port 7860."""

from cdam_fast.demo.server import serve
from cdam_fast.demo.session import Session

MODEL, PRETRAINED = "ViT-B-16", "laion2b_s34b_b88k"
MOST_BYTES = 20_000_000


def load(model=MODEL, pretrained=PRETRAINED):
    """The model; its weights are downloaded when the Space starts."""
    return Session.load(model, pretrained)


if __name__ == "__main__":
    serve(load(), "0.0.0.0", 7860, MOST_BYTES, print)
