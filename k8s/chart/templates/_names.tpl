{{/* Names and labels that several objects share, and what cannot be both. */}}

{{- define "oom-watcher.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "oom-watcher" .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-oom-watcher" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What pods are selected by. */}}
{{- define "oom-watcher.selector" -}}
app: {{ include "oom-watcher.fullname" . }}
{{- end -}}

{{- define "oom-watcher.labels" -}}
{{ include "oom-watcher.selector" . }}
app.kubernetes.io/name: oom-watcher
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "oom-watcher.metadata" -}}
name: {{ include "oom-watcher.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "oom-watcher.labels" . | nindent 2 }}
{{- end -}}

{{- define "oom-watcher.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Whether this is OpenShift; `helm template` has to be told: --api-versions security.openshift.io/v1 */}}
{{- define "oom-watcher.openshift" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}true{{- end -}}
{{- end -}}

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
{{- end -}}
