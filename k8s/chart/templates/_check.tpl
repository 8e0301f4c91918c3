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
{{- include "oom-watcher.check-volumes" . -}}
{{- include "oom-watcher.check-labels" . -}}
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
