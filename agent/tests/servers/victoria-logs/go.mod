// Builds VictoriaLogs (../get): a log store that takes OTLP, under the Apache License. For another version change the
// number, empty go.sum, and fill it with
// `go list -mod=mod -deps github.com/VictoriaMetrics/VictoriaLogs/app/victoria-logs`.
module oom-watcher/victoria-logs

go 1.26.5

require github.com/VictoriaMetrics/VictoriaLogs v1.52.1
