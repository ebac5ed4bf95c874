// SPDX-License-Identifier: Apache-2.0

// Package conformance runs the Gateway API's conformance suite against the agent on one
// machine: a real API server and its controllers, and instead of nodes a program that makes
// a network namespace and a process of each pod. All of it is in namespaces of its own, and
// ends with the test.
package conformance
