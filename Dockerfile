# `ssd1b serve` in a container. EXTRA is empty for CPUs, cuda or tpu. The key is SSD1B_API_KEY in the environment.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRA=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY ssd1b_jax ssd1b_jax
COPY convert convert
COPY docs docs
RUN python -m venv /opt/ssd1b && \
    /opt/ssd1b/bin/pip install --no-cache-dir -c constraints.txt ".[serve${EXTRA:+,$EXTRA}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/ssd1b /opt/ssd1b
RUN useradd --create-home --uid 1000 ssd1b && install -d -o ssd1b /home/ssd1b/.cache
USER 1000
WORKDIR /home/ssd1b
ENV PATH=/opt/ssd1b/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 7860
VOLUME /home/ssd1b/.cache
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["ssd1b", "serve", "--host", "0.0.0.0"]
