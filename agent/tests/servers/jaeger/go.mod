// What builds Jaeger (../get): a trace store that takes OTLP. For another version change the number, empty go.sum, and fill it with
// `go list -mod=mod -deps github.com/jaegertracing/jaeger/cmd/jaeger`.
module oom-watcher/jaeger

go 1.25.0

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
