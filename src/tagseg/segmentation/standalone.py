"""Masks by model.onnx, without torch and without tagseg: python predict.py photo.jpg mask.png"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def predict(session: onnxruntime.InferenceSession, photo: Image.Image) -> np.ndarray:
    """Returns the class of every pixel, 0 background, of a photograph in RGB."""
    told = json.loads(session.get_modelmeta().custom_metadata_map["tagseg"])
    scale, stride, edge = told["side"] / max(photo.size), told["stride"], int(told["corners"])
    width, height = (max(1, round((n * scale - edge) / stride)) * stride + edge for n in photo.size)
    small = photo.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    given = {"image": np.asarray(small)[None], "size": np.array(photo.size[::-1], dtype=np.int64)}
    (probabilities,) = session.run(None, given)
    return probabilities[0].argmax(axis=0).astype(np.uint8)


if __name__ == "__main__":
    model = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
    picture = ImageOps.exif_transpose(Image.open(sys.argv[1]))
    if picture.mode.startswith(("I", "F")):
        sys.exit(f"{sys.argv[1]}: give a photograph of 8 bits")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    Image.fromarray(predict(model, picture.convert("RGB"))).save(sys.argv[2])
