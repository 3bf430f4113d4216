#!/bin/sh
# HAProxy for Ray Serve, with what Ray's own configuration file lacks: Ray starts this script in HAProxy's place
# (RAY_SERVE_HAPROXY_BINARY_PATH) as `haproxy.sh -db -f FILE ...`, at every reload with a new FILE.
#
#   http-buffer-request, timeout http-request: a request takes a replica's slot when it is there, not while it drips in
#       (50 uploads of a byte a second stop the default), and one that met a dying replica can be sent again whole;
#   one error body: what Serve or HAProxy says in plain text becomes {"error", "code", "request_id"} like the app's own.
#       Out of reach in HAProxy 2.8: what is no HTTP request at all gets its built-in 400 or 408;
#   log-format: `option httplog` would write addresses and query strings, where somebody may have put a name;
#   one X-Request-ID, looked at whole: req.hdr would look at what stands between commas, and one good part kept a bad name;
#   no X-Request-Timeout-Seconds: with it a client could lift the time limit that Serve puts on its request;
#   no X-Request-Disconnect-Disabled: with it a client could hang up and keep its places;
#   statistics and metrics: on loopback, not on every interface;
#   NEURALBLACK_MAX_PENDING: a crowd is refused here, when so many requests are under way for each replica. The app has the
#       same bound, but its event loop shares the cores with the network's threads, and took seconds to say 429 to 500.
#       Uploads that drip don't count: with http-buffer-request they are not with a replica yet;
#   NEURALBLACK_BIND_HOST: where the service itself listens, while replicas stay on loopback behind it.
#
# Readiness is the application's /ready. /-/healthz is of no use here: it says 200 while no replica can answer.
set -eu
file=$3
if ! grep -q 'option http-buffer-request' "$file"; then
    # Before the first application is up (or just after HAProxy itself died) every address is Serve's plain 404.
    nothing='status 503 content-type application/json hdr Retry-After 2 hdr X-Request-ID "%[var(txn.id)]" lf-string '\''{"error": "The service is starting. Try again in a few seconds.", "code": "not_ready", "request_id": "%[var(txn.id)]"}'\'
    if grep -q '^ *use_backend' "$file"; then
        nothing='status 404 content-type application/json hdr X-Request-ID "%[var(txn.id)]" lf-string '\''{"error": "There is nothing at this address.", "code": "not_found", "request_id": "%[var(txn.id)]"}'\'
    fi
    sed -i \
        -e '/^frontend prometheus/,/^frontend http_frontend/ s/bind [*]*:/bind 127.0.0.1:/' \
        -e '/^listen stats/,$ s/bind [*]*:/bind 127.0.0.1:/' \
        ${NEURALBLACK_BIND_HOST:+-e "/^frontend http_frontend/,/^backend/ s/bind 127\.0\.0\.1:/bind $NEURALBLACK_BIND_HOST:/"} \
        -e "s|http-request return status 404 content-type text/plain lf-string \"Path.*|http-request return $nothing|" \
        "$file"
    sed -i -f /dev/stdin "$file" <<'END'
/^defaults$/a\
    option http-buffer-request\
    timeout http-request 10s\
    unique-id-format %[uuid]\
    http-error status 400 content-type application/json hdr X-Request-ID "%[unique-id]" lf-string '{"error": "The request cannot be read.", "code": "bad_request", "request_id": "%[unique-id]"}'\
    http-error status 408 content-type application/json hdr X-Request-ID "%[unique-id]" lf-string '{"error": "The upload took too long to arrive.", "code": "slow_upload", "request_id": "%[unique-id]"}'\
    http-error status 500 content-type application/json hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The service failed at this request.", "code": "internal", "request_id": "%[var(txn.id)]"}'\
    http-error status 502 content-type application/json hdr Retry-After 2 hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The replica at work on this request ended. Try again.", "code": "unavailable", "request_id": "%[var(txn.id)]"}'\
    http-error status 503 content-type application/json hdr Retry-After 2 hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "No replica can answer at the moment. Try again in a few seconds.", "code": "unavailable", "request_id": "%[var(txn.id)]"}'\
    http-error status 504 content-type application/json hdr Retry-After 2 hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The answer took too long. Try again in a few seconds.", "code": "too_slow", "request_id": "%[var(txn.id)]"}'
/^ *errorfile /d
s/^    option httplog$/    log-format "%HM %ST %Ta %b\/%s %ts"/
/^frontend http_frontend/,/^frontend [^h]/ {
    /^    bind /a\
    http-request set-header X-Request-ID %[unique-id] unless { req.fhdr_cnt(X-Request-ID) eq 1 } { req.fhdr(X-Request-ID) -m reg ^[A-Za-z0-9._-]{1,64}$ }\
    http-request set-var(txn.id) req.fhdr(X-Request-ID)\
    http-request del-header X-Request-Timeout-Seconds\
    http-request del-header X-Request-Disconnect-Disabled\
    acl ours res.hdr(Content-Type) -m beg application/json\
    http-response set-var(txn.retry) str(2)\
    http-response set-var(txn.retry) res.hdr(Retry-After) if { res.hdr(Retry-After) -m found }\
    http-response return status 503 content-type application/json hdr Retry-After 2 hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The service is starting. Try again in a few seconds.", "code": "not_ready", "request_id": "%[var(txn.id)]"}' if !ours { status 404 }\
    http-response return status 503 content-type application/json hdr Retry-After "%[var(txn.retry)]" hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The answer took too long. Try again in a few seconds.", "code": "too_slow", "request_id": "%[var(txn.id)]"}' if !ours { status 408 504 }\
    http-response return status 429 content-type application/json hdr Retry-After "%[var(txn.retry)]" hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "More requests wait than the service can answer soon. Try again in a few seconds.", "code": "overloaded", "request_id": "%[var(txn.id)]"}' if !ours { status 429 }\
    http-response return status 500 content-type application/json hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The service failed at this request.", "code": "internal", "request_id": "%[var(txn.id)]"}' if !ours { status 500 }\
    http-response return status 503 content-type application/json hdr Retry-After "%[var(txn.retry)]" hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "No replica can answer at the moment. Try again in a few seconds.", "code": "unavailable", "request_id": "%[var(txn.id)]"}' if !ours { status 502 503 }
}
END
    if [ -n "${NEURALBLACK_MAX_PENDING:-}" ]; then
        # nbsrv: replicas that are up, or Serve's fallback proxy where there is none.
        sed -i -f /dev/stdin "$file" <<END
/^    http-reuse always/i\\
    http-request set-var(txn.replicas) nbsrv\\
    http-request return status 429 content-type application/json hdr Retry-After 1 hdr X-Request-ID "%[var(txn.id)]" lf-string '{"error": "The service has as much to do as it can hold. Send the request again in a moment.", "code": "overloaded", "request_id": "%[var(txn.id)]"}' if METH_POST { var(txn.replicas) -m int gt 0 } { be_conn,div(txn.replicas) gt $NEURALBLACK_MAX_PENDING }
END
    fi
fi
exec "$NEURALBLACK_HAPROXY" "$@"
