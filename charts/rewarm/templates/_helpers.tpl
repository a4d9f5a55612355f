{{- define "rewarm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "rewarm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "rewarm.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "rewarm.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "rewarm.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rewarm.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: found none, expected the name of an existing service account (serviceAccount.create is false)" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "rewarm.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rewarm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rewarm.labels" -}}
{{- $own := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") "app.kubernetes.io/version" .Chart.AppVersion "app.kubernetes.io/managed-by" .Release.Service "app.kubernetes.io/part-of" "rewarm" -}}
{{- $own = merge $own (include "rewarm.selectorLabels" . | fromYaml) -}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end -}}

{{- /* An image by digest where there is one. Call with (dict "image" ... "root" $). */ -}}
{{- define "rewarm.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "rewarm.trainerImage" -}}
{{- include "rewarm.image" (dict "image" .Values.trainer.image "root" .) -}}
{{- end -}}

{{- define "rewarm.mlflowImage" -}}
{{- if .Values.mlflow.image.repository -}}
{{- include "rewarm.image" (dict "image" .Values.mlflow.image "root" .) -}}
{{- else -}}
{{- include "rewarm.trainerImage" . -}}
{{- end -}}
{{- end -}}

{{- /* JSON list of the namespaces with a Role; empty in cluster-wide mode. */ -}}
{{- define "rewarm.namespaces" -}}
{{- if .Values.watch.clusterWide -}}
{{- if .Values.watch.namespaces -}}
{{- fail "watch.namespaces: found a list beside watch.clusterWide: true, expected one of the two; remove one" -}}
{{- end -}}
[]
{{- else -}}
{{- default (list .Release.Namespace) .Values.watch.namespaces | uniq | toJson -}}
{{- end -}}
{{- end -}}

{{- /* The namespaces for objects of training pods: the watched ones, or the release's in cluster-wide mode. */ -}}
{{- define "rewarm.trainerNamespaces" -}}
{{- $watched := include "rewarm.namespaces" . | fromJsonArray -}}
{{- default (default (list .Release.Namespace) $watched) .Values.networkPolicy.trainerNamespaces | uniq | toJson -}}
{{- end -}}

{{- define "rewarm.progressSecret" -}}
{{- default (printf "%s-progress" (include "rewarm.fullname" .)) .Values.progress.existingSecret -}}
{{- end -}}

{{- define "rewarm.mlflowName" -}}
{{- printf "%s-mlflow" (include "rewarm.fullname" .) -}}
{{- end -}}

{{- define "rewarm.trackingUri" -}}
{{- if .Values.tracking.uri -}}
{{- .Values.tracking.uri -}}
{{- else if .Values.mlflow.enabled -}}
{{- printf "http://%s.%s.svc:5000" (include "rewarm.mlflowName" .) .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- /* The image says which user; what the administrator sets comes on top, and never takes anything away. */ -}}
{{- define "rewarm.podSecurityContext" -}}
{{- toYaml (merge (dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault")) . (dict "fsGroup" 65532)) -}}
{{- end -}}

{{- define "rewarm.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What the operator may do with runs, studies and their children. No verb on secrets, here or anywhere. */ -}}
{{- define "rewarm.rules" -}}
- apiGroups: [rewarm.dev]
  resources: [continualruns]
  verbs: [get, list, watch, create, patch]
- apiGroups: [rewarm.dev]
  resources: [mixturestudies]
  verbs: [get, list, watch]
- apiGroups: [rewarm.dev]
  resources: [continualruns/status, mixturestudies/status]
  verbs: [patch]
- apiGroups: [rewarm.dev]
  resources: [continualruns/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [get, list, watch]
{{- end -}}
