// What builds Alertmanager (../get): Debian's is without its templates. For another version change the number, empty go.sum, and fill it with
// `go list -mod=mod -deps github.com/prometheus/alertmanager/cmd/alertmanager`.
module oom-watcher/alertmanager

go 1.25.0

require github.com/prometheus/alertmanager v0.31.1
