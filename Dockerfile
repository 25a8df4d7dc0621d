# acmeca in a container: a small Python base, a virtual environment from the hashed lock, one unprivileged user.
#
# This file has not been built where it was written, because no container engine was there. Its steps were run by hand in a
# virtual environment (the lock, the package, the removal of build tools), and the lock was resolved for Python 3.13.
#
#   docker build -t acmeca .
#   docker run --rm -it -v acmeca:/var/lib/acmeca -v "$PWD/acmeca.toml:/etc/acmeca/acmeca.toml:ro" acmeca init
#   docker run -d --name acmeca -p 8443:8443 -p 8080:8080 --read-only --cap-drop ALL --security-opt no-new-privileges \
#       -v acmeca:/var/lib/acmeca -v "$PWD/acmeca.toml:/etc/acmeca/acmeca.toml:ro" acmeca
#
# The configuration is /etc/acmeca/acmeca.toml, or variables ACMECA_SECTION__KEY. All state, the CA's keys among it, is in
# the volume /var/lib/acmeca: back it up, and give it to one container at a time. A bind mount must belong to uid 10001.

ARG PYTHON=3.13

# --- build -------------------------------------------------------------------------------------------------------------
FROM python:${PYTHON}-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
RUN python -m venv /opt/acmeca

# The lock first: this layer stays while only acmeca changes. Wheels only, so that nothing downloaded runs code here.
COPY requirements/run.txt requirements/run.txt
RUN /opt/acmeca/bin/pip install --require-hashes --only-binary=:all: --requirement requirements/run.txt

COPY pyproject.toml README.md LICENSE ./
COPY acmeca acmeca
COPY conf conf
COPY docs docs
COPY templates templates
RUN /opt/acmeca/bin/pip install --no-index --no-deps --no-build-isolation . \
    && /opt/acmeca/bin/pip check \
    && /opt/acmeca/bin/pip uninstall --yes hatchling editables pathspec pluggy trove-classifiers pip \
    && /opt/acmeca/bin/acmeca --version

# --- run ---------------------------------------------------------------------------------------------------------------
FROM python:${PYTHON}-slim-bookworm

# A fixed uid, so that a volume's owner is known beforehand. No shell and no home but the data.
RUN groupadd --gid 10001 acmeca \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home \
        --home-dir /var/lib/acmeca --shell /usr/sbin/nologin acmeca \
    && install --directory --mode=0700 --owner=acmeca --group=acmeca /var/lib/acmeca

# It belongs to root: the server cannot write to its own code.
COPY --from=build /opt/acmeca /opt/acmeca

ENV PATH=/opt/acmeca/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

USER 10001:10001
WORKDIR /var/lib/acmeca
VOLUME /var/lib/acmeca

# ACME over https; OCSP, CRLs and issuers over http. An admin listener stays inside.
EXPOSE 8443 8080

# Alive is enough here: an engine that restarts a container for being unready would make a slow resolver an outage.
# No proxy: the variable http_proxy is for the world outside.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8080/health/live', timeout=4).close()"]

# serve finishes the requests in flight at SIGTERM.
STOPSIGNAL SIGTERM

ENTRYPOINT ["acmeca"]
CMD ["serve"]
