# The product's one image: operator, order service and consumer, built beforehand on the same Debian release.
FROM debian:bookworm-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libssl3 zlib1g ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY operator order-service consumer /usr/local/bin/
USER 65532:65532
