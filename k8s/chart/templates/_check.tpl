{{/* What is refused although each value by itself is good: what cannot be both, and what the pod says otherwise. */}}

{{- define "oom-watcher.check" -}}
{{- if and .Values.privileged .Values.nonRoot -}}
{{- fail "privileged and nonRoot are both true: a privileged agent is root" -}}
{{- end -}}
{{- if and .Values.privileged .Values.oldKernel -}}
{{- fail "privileged and oldKernel are both true: a privileged agent has all capabilities already" -}}
{{- end -}}
{{- if and .Values.nonRoot .Values.oldKernel -}}
{{- fail "nonRoot and oldKernel are both true: the agent's file permits CAP_BPF and CAP_PERFMON to a user who is not root, and no CAP_SYS_RESOURCE" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor are both enabled: each kill would be there twice" -}}
{{- end -}}
{{- if and (include "oom-watcher.openshift" .) .Values.privileged -}}
{{- fail "privileged is true: the SecurityContextConstraints of this chart do not allow that on OpenShift, where it is not needed" -}}
{{- end -}}
{{- $name := include "oom-watcher.fullname" . -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- fail (printf "the name %s, made of the release's, begins with a digit, which a Service may not: set fullnameOverride to one that begins with a letter" $name) -}}
{{- end -}}
{{- include "oom-watcher.check-config" . -}}
{{- include "oom-watcher.check-env" . -}}
{{- include "oom-watcher.check-volumes" . -}}
{{- include "oom-watcher.check-labels" . -}}
{{- end -}}

{{/* A variable of the pod wins over the file, and the pod's ports and directories are not the file's: such a setting would have no effect, or break the pod. */}}
{{- define "oom-watcher.check-config" -}}
{{- $instead := dict
  "listen" "use port; another address, such as ::, is OTEL_EXPORTER_PROMETHEUS_HOST in env"
  "node_name" "leave it out, the pod gets the name of its node"
  "state.directory" "leave it out, the state is in /run/oom-watcher of the node, which is mounted there"
  "probe.pin_directory" "use pin"
  "export.spool_directory" "use spool"
  "kubernetes.daemonset" "leave it out, the pod knows its own DaemonSet" -}}
{{- $config := .Values.config | default dict -}}
{{- range $key, $what := $instead -}}
{{- $path := splitList "." $key -}}
{{- $in := $config -}}
{{- range initial $path -}}
{{- $in = get $in . | default dict -}}
{{- if not (kindIs "map" $in) -}}{{- $in = dict -}}{{- end -}}
{{- end -}}
{{- if hasKey $in (last $path) -}}
{{- fail (printf "config.%s is set: %s" $key $what) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of a variable that is there twice the last one counts, and a server-side apply refuses it. */}}
{{- define "oom-watcher.check-env" -}}
{{- $instead := dict
  "NODE_NAME" "leave it out, the pod gets the name of its node"
  "METRICS_PORT" "use port"
  "OTEL_EXPORTER_PROMETHEUS_PORT" "use port"
  "POD_NAMESPACE" "leave it out, the pod gets its own"
  "OOM_WATCHER_DAEMONSET" "leave it out, the pod knows its own DaemonSet"
  "OOM_WATCHER_PIN_DIR" "use pin"
  "OOM_WATCHER_SPOOL_DIR" "use spool"
  "OOM_WATCHER_STATE_DIR" "leave it out, the state is in /run/oom-watcher of the node, which is mounted there"
  "HOST_IP" "leave it out, the pod gets the address of its node" -}}
{{- if .Values.otlp.endpoint -}}
{{- $_ := set $instead "OTEL_EXPORTER_OTLP_ENDPOINT" "otlp.endpoint is set too, use one of the two" -}}
{{- end -}}
{{- if .Values.config -}}
{{- $_ := set $instead "OOM_WATCHER_CONFIG" "config is set too, use one of the two" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $index, $variable := .Values.env -}}
{{- with get $instead $variable.name -}}
{{- fail (printf "env[%d] is %s: %s" $index $variable.name .) -}}
{{- end -}}
{{- if hasKey $seen $variable.name -}}
{{- fail (printf "env[%d] is %s, which is there before: keep one of the two" $index $variable.name) -}}
{{- end -}}
{{- $_ := set $seen $variable.name true -}}
{{- end -}}
{{- end -}}

{{- define "oom-watcher.check-volumes" -}}
{{- $seen := dict "cgroup" true "tracing" true "state" true "pins" true "proc" true "sys" true "debug" true "config" true -}}
{{- range $index, $volume := .Values.extraVolumes -}}
{{- if hasKey $seen $volume.name -}}
{{- fail (printf "extraVolumes[%d] is called %s, as another volume of the pod: give it another name" $index $volume.name) -}}
{{- end -}}
{{- $_ := set $seen $volume.name true -}}
{{- end -}}
{{- end -}}

{{/* The Service, the monitors and the alerts find the agent by these two. */}}
{{- define "oom-watcher.check-labels" -}}
{{- $fixed := dict "app" (include "oom-watcher.fullname" .) "app.kubernetes.io/name" "oom-watcher" -}}
{{- $all := dict "podLabels" .Values.podLabels "serviceMonitor.labels" .Values.serviceMonitor.labels "podMonitor.labels" .Values.podMonitor.labels "prometheusRule.labels" .Values.prometheusRule.labels -}}
{{- range $place, $labels := $all -}}
{{- range $key, $value := $fixed -}}
{{- if ne (get ($labels | default dict) $key | default $value) $value -}}
{{- fail (printf "%s has the label %s: leave it out, the agent is found by it as %s" $place $key $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "checksum/config" -}}
{{- fail "podAnnotations has checksum/config: leave it out, a change of config makes the pods anew by it" -}}
{{- end -}}
{{- end -}}
