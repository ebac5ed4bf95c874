// SPDX-License-Identifier: Apache-2.0

// Package chart renders what is in deploy, and tests it: the Helm chart, the plain manifests
// and the resource definitions. It is a module of its own, so that Helm stays out of the
// agent's.
package chart
