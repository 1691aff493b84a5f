{{- define "orderflow.name" -}}
{{- printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "orderflow.serviceAccountName" -}}
{{- default (include "orderflow.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "orderflow.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "orderflow.selectorLabels" -}}
app.kubernetes.io/name: order-pipeline-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "orderflow.labels" -}}
{{ include "orderflow.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: orderflow
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What the operator may do in a namespace whose pipelines it runs; each rule with its reason. */}}
{{- define "orderflow.namespaceRules" -}}
# Reads pipelines, and adds or removes its finalizer on them.
- apiGroups: [orderflow.dev]
  resources: [orderpipelines]
  verbs: [get, list, watch, patch]
# Reports what it found and did.
- apiGroups: [orderflow.dev]
  resources: [orderpipelines/status]
  verbs: [patch]
# Runs the order service and the consumers, and takes away those that left the spec.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Makes the order service reachable.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Keeps a node drain from taking all pods at once.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Sees who else sets a number of pods, so as to leave it to them.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
# Finds the pods of an order service that is scaled by what they serve on their admin port.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Looks whether a referenced Secret is there, and reads Kafka's credentials from it; never lists or writes.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Tells what it did; patch, because repeated Events are counted on the first.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
