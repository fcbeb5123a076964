{{- define "mii-operator.name" -}}
{{ .Values.fullnameOverride | default "mii-operator" }}
{{- end -}}

{{/* Cluster-scoped objects carry the namespace too, so that two releases of one name do not meet. */}}
{{- define "mii-operator.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace (include "mii-operator.name" .) }}
{{- end -}}

{{- define "mii-operator.selector" -}}
app.kubernetes.io/name: mii-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mii-operator.labels" -}}
{{ include "mii-operator.selector" . }}
app.kubernetes.io/part-of: mii
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mii-operator.metadata" -}}
name: {{ include "mii-operator.name" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "mii-operator.labels" . | nindent 2 }}
{{- end -}}

{{- define "mii-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "mii-operator.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* image(list $ NAME) */}}
{{- define "mii-operator.image" -}}
{{- $ := index . 0 -}}
{{ printf "%s/%s:%s" $.Values.images.registry (index . 1) ($.Values.images.tag | default $.Chart.AppVersion) }}
{{- end -}}

{{/* Of a pod and of a container, as the restricted Pod Security Standard asks. */}}
{{- define "mii-operator.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mii-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
