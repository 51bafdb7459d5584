"""`milvus-stream model`: the models prepared for OpenVINO on this machine."""
