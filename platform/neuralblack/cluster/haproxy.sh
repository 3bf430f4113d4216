#!/bin/sh
# HAProxy for Ray Serve, with what Ray's own configuration file lacks: Ray starts this script in HAProxy's place
# (RAY_SERVE_HAPROXY_BINARY_PATH) as `haproxy.sh -db -f FILE ...`, at every reload with a new FILE.
#
#   http-buffer-request, timeout http-request: a request takes a replica's slot when it is there, not while it drips in
#       (50 uploads of a byte a second stop the default), and one that met a dying replica can be sent again whole;
#   statistics and metrics: on loopback, not on every interface;
#   NEURALBLACK_BIND_HOST: where the service itself listens, while replicas stay on loopback behind it.
set -eu
file=$3
if ! grep -q 'option http-buffer-request' "$file"; then
    sed -i \
        -e 's/^defaults$/defaults\n    option http-buffer-request\n    timeout http-request 10s/' \
        -e '/^frontend prometheus/,/^frontend http_frontend/ s/bind [*]*:/bind 127.0.0.1:/' \
        -e '/^listen stats/,$ s/bind [*]*:/bind 127.0.0.1:/' \
        ${NEURALBLACK_BIND_HOST:+-e "/^frontend http_frontend/,/^backend/ s/bind 127\.0\.0\.1:/bind $NEURALBLACK_BIND_HOST:/"} \
        "$file"
fi
exec "$NEURALBLACK_HAPROXY" "$@"
