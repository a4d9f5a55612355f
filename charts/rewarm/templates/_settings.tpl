{{- /* The operator's settings by environment: a YAML mapping, so no name can come twice. Empty values stay away. */ -}}
{{- define "rewarm.settings" -}}
{{- $name := include "rewarm.fullname" . -}}
{{- $set := dict
  "REWARM_TRAINER_IMAGE" (include "rewarm.trainerImage" .)
  "REWARM_IMAGE_PULL_POLICY" .Values.trainer.image.pullPolicy
  "REWARM_NAMESPACES" (include "rewarm.namespaces" . | fromJsonArray | join ",")
  "REWARM_LOG_LEVEL" .Values.logLevel
  "REWARM_LEASE_NAME" $name
  "REWARM_LEASE_SECONDS" (.Values.leaderElection.leaseSeconds | int | toString)
  "REWARM_DEFAULT_CHECKPOINTS_URI" .Values.checkpoints.uri
  "REWARM_DEFAULT_CACHE_URI" .Values.cache.uri
  "REWARM_DEFAULT_TRACKING_URI" (include "rewarm.trackingUri" .)
  "REWARM_DEFAULT_CREDENTIALS" (join "," .Values.credentials)
  "REWARM_PREPARE_CPU" (.Values.trainer.prepare.cpu | toString)
  "REWARM_PREPARE_MEMORY" (.Values.trainer.prepare.memory | toString)
  "REWARM_SERVICE_ACCOUNT" .Values.trainer.serviceAccountName
  "REWARM_SCRATCH_SIZE_LIMIT" (.Values.trainer.scratchSizeLimit | toString)
  "REWARM_HEARTBEAT_TIMEOUT_SECONDS" (.Values.timings.heartbeatTimeoutSeconds | int | toString)
  "REWARM_STUCK_MARGIN_SECONDS" (.Values.timings.stuckMarginSeconds | int | toString)
  "REWARM_STATUS_INTERVAL_SECONDS" (.Values.timings.statusIntervalSeconds | int | toString)
  "REWARM_RESYNC_SECONDS" (.Values.timings.resyncSeconds | int | toString)
-}}
{{- if .Values.progress.enabled -}}
{{- $set = merge $set (dict
  "REWARM_PROGRESS_URL" (printf "https://%s.%s.svc:8443" $name .Release.Namespace)
  "REWARM_PROGRESS_CERTIFICATE" "/etc/rewarm/progress/tls.crt"
  "REWARM_PROGRESS_KEY" "/etc/rewarm/progress/tls.key"
  "REWARM_PROGRESS_CA_FILE" "/etc/rewarm/progress/ca.crt"
) -}}
{{- end -}}
{{- if .Values.trainer.environment -}}
{{- $_ := set $set "REWARM_ENVIRONMENT" (toJson .Values.trainer.environment) -}}
{{- end -}}
{{- range $key, $value := $set -}}
{{- if $value }}
{{ $key }}: {{ $value | quote }}
{{- end -}}
{{- end -}}
{{- end -}}
