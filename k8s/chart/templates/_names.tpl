{{/* Names and labels that several objects share. What is refused is in _check.tpl. */}}

{{/* Names are quoted wherever they are written: `null`, `on` and `123` are names too. */}}
{{- define "oom-watcher.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- /* A release may have dots in its name, a Service may not. */}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- $name := ternary $release (printf "%s-oom-watcher" $release) (contains "oom-watcher" $release) -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What pods are selected by. */}}
{{- define "oom-watcher.selector" -}}
app: {{ include "oom-watcher.fullname" . | quote }}
{{- end -}}

{{- define "oom-watcher.labels" -}}
{{ include "oom-watcher.selector" . }}
app.kubernetes.io/name: oom-watcher
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "oom-watcher.metadata" -}}
name: {{ include "oom-watcher.fullname" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "oom-watcher.labels" . | nindent 2 }}
{{- end -}}

{{/* The same with labels of the user's: (list $ LABELS). Each key once, or strict readers refuse the object. */}}
{{- define "oom-watcher.metadata-with" -}}
{{- $context := index . 0 -}}
name: {{ include "oom-watcher.fullname" $context | quote }}
namespace: {{ $context.Release.Namespace | quote }}
labels:
  {{- mergeOverwrite (include "oom-watcher.labels" $context | fromYaml) (index . 1 | default dict) | toYaml | nindent 2 }}
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
