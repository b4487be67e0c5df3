"""A server as most examples have it: FastAPI, Keras' predict, one image a call. uvicorn runs it.

SIZE=224 WEIGHTS=vgg16_notop.weights.h5 HEAD=store/heads/… uvicorn --app-dir benchmarks peers.fastapi_keras:app
"""

import io
import json
import os
from pathlib import Path

import keras
import numpy as np
from fastapi import FastAPI, UploadFile
from PIL import Image

SIZE, HEAD = int(os.environ["SIZE"]), Path(os.environ["HEAD"])
network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
if os.environ.get("WEIGHTS"):
    network.load_weights(os.environ["WEIGHTS"])
head = keras.models.load_model(HEAD / "head.keras")
classes = json.loads((HEAD / "head.json").read_text())["classes"]
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict:
    image = Image.open(io.BytesIO(file.file.read())).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    pixels = keras.applications.vgg16.preprocess_input(np.asarray(image, np.float32)[None])
    (answer,) = head.predict(network.predict(pixels, verbose=0), verbose=0)
    both = [1 - float(answer[0]), float(answer[0])] if len(answer) == 1 else answer.tolist()
    best = int(np.argmax(both))
    return {"class": classes[best], "probability": both[best]}
