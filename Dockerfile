# One image for all three services:  docker build -t sybil-engine .  &&  docker run --rm sybil-engine --help
#
# Where pip looks is the builder's choice. By default it takes what its own index offers for torch, which on Linux is
# the CUDA build; an index of CPU builds makes a much smaller image:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=<an index of CPU builds of torch> -t sybil-engine .

# The dependencies alone, so that an edit elsewhere in pyproject.toml installs nothing again.
FROM python:3.11-slim AS dependencies
COPY pyproject.toml /
RUN python3 -c "import tomllib; print(*tomllib.load(open('/pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > /dependencies.txt

FROM python:3.11-slim
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG PIP="pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore"

WORKDIR /build
COPY --from=dependencies /dependencies.txt ./
COPY constraints.txt ./
RUN $PIP --constraint constraints.txt setuptools --requirement dependencies.txt

# The Hugging Face cache and folders of models are mounted here; as volumes they take over this owner.
RUN useradd --uid 10001 --create-home sybil && install -d -o sybil /cache /models

COPY pyproject.toml ./
COPY sybil_engine sybil_engine
COPY drafter_service drafter_service
COPY verifier_service verifier_service
COPY coordinator coordinator
COPY benchmarks benchmarks
COPY loadtest loadtest
COPY quality quality
COPY reporting reporting
COPY simulator simulator
COPY sybil_local sybil_local
COPY sybil_cli sybil_cli
RUN $PIP --no-deps --no-build-isolation . && rm -rf /build/*

USER sybil
WORKDIR /home/sybil
ENV HOME=/home/sybil HF_HOME=/cache PYTHONUNBUFFERED=1
EXPOSE 50051 50052 50053 9590 9591 9592
ENTRYPOINT ["sybil"]
CMD ["--help"]
