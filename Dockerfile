# docker build -t tagseg . && docker run --rm -v "$PWD:/work" tagseg fit photos --out run
# With a GPU: --gpus all. The explorer and the page for mending answer only this machine's own name: --network host.
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /tagseg/
COPY src /tagseg/src
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" "/tagseg[app,coco,onnx]"
WORKDIR /work
ENTRYPOINT ["tagseg"]
