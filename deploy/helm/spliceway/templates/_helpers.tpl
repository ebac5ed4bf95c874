{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{- define "spliceway.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "spliceway.fullname" -}}
{{- $name := include "spliceway.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "spliceway.selector" -}}
app.kubernetes.io/name: {{ include "spliceway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "spliceway.labels" -}}
{{ include "spliceway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "spliceway.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "spliceway.fullname" .) }}
{{- else }}
{{- required "serviceAccount.name is missing: give one, or set serviceAccount.create" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "spliceway.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* The admin listener, as a host and a port. The host is empty for all addresses. */}}
{{- define "spliceway.admin" -}}
{{- $address := dig "admin" "address" "127.0.0.1:9180" .Values.config }}
{{- if not (regexMatch "^.*:[0-9]+$" $address) }}
{{- fail (printf "config.admin.address: expected HOST:PORT, found %q: the probes ask there" $address) }}
{{- end }}
{{- $host := regexReplaceAll ":[0-9]+$" $address "" | trimPrefix "[" | trimSuffix "]" }}
{{- dict "host" (has $host (list "0.0.0.0" "::") | ternary "" $host) "port" (regexFind "[0-9]+$" $address | int) | toJson }}
{{- end }}

{{/* A sum of what the agent takes up at its start only. */}}
{{- define "spliceway.restartFor" -}}
{{- $keys := pick .Values.config "acme" "admin" "bpffs" "cgroup" "kubernetes" "sourcePorts" }}
{{- $log := pick (.Values.config.log | default dict) "access" "format" }}
{{- $limits := pick (.Values.config.limits | default dict) "openFiles" }}
{{- list $keys $log $limits | toJson | sha256sum | trunc 16 | quote }}
{{- end }}
