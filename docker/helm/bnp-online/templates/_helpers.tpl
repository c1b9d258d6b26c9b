{{- define "bnp.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bnp.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bnp.labels" -}}
{{ include "bnp.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "bnp.secret" -}}
{{- printf "%s-secrets" (include "bnp.fullname" .) -}}
{{- end -}}

{{/* Pod of a server. Takes: root, role, host (of its address), ready (path), resources. */}}
{{- define "bnp.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
metadata:
  labels:
    {{- include "bnp.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
    {{- if ne .role "owner" }}
    bnp-online/reads: "true"
    {{- end }}
  annotations:
    checksum/settings: {{ toJson $values.settings | sha256sum }}
    checksum/secrets: {{ printf "%s %s" $values.store.url $values.keys.value | sha256sum }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile:
      type: RuntimeDefault
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "bnp.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .role }}
  containers:
    - name: server
      image: {{ printf "%s:%s" $values.image.repository (default $root.Chart.AppVersion $values.image.tag) | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      env:
        - name: BNP_ROLE
          value: {{ .role }}
        - name: BNP_NODE
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        - name: BNP_ADDRESS
          value: {{ printf "http://%s:8000" .host | quote }}
        - name: BNP_HOST
          value: 0.0.0.0
        - name: BNP_PORT
          value: "8000"
        - name: BNP_DATA_DIR
          value: /data
        - name: BNP_STORE
          valueFrom:
            secretKeyRef:
              {{- if $values.store.secret }}
              name: {{ $values.store.secret }}
              key: {{ $values.store.key }}
              {{- else }}
              name: {{ include "bnp.secret" $root }}
              key: store
              {{- end }}
        - name: BNP_API_KEYS
          valueFrom:
            secretKeyRef:
              {{- if $values.keys.secret }}
              name: {{ $values.keys.secret }}
              key: {{ $values.keys.key }}
              {{- else }}
              name: {{ include "bnp.secret" $root }}
              key: keys
              {{- end }}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      envFrom:
        - configMapRef:
            name: {{ include "bnp.fullname" $root }}-settings
      ports:
        - name: http
          containerPort: 8000
      startupProbe:
        httpGet: {path: /health/live, port: http}
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /health/live, port: http}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: {{ .ready }}, port: http}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 2
      resources:
        {{- toYaml .resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
  volumes:
    # The log and the checkpoints are in the store: nothing here must outlive the pod.
    - name: data
      emptyDir: {sizeLimit: 1Gi}
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
