// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finding is what a condition says: that all is well, if reason is empty.
type finding struct{ reason, message string }

func (f finding) ok() bool { return f.reason == "" }

// set keeps the first thing that is wrong.
func (f *finding) set(reason, message string) {
	if f.ok() {
		*f = finding{reason, message}
	}
}

// condition returns a condition that is True with the reason and message good, or
// False with those of f.
func (f finding) condition(kind string, generation int64, good finding) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, ObservedGeneration: generation, Reason: good.reason, Message: good.message}
	if !f.ok() {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, f.reason, f.message
	}
	return c
}

// holds tells whether the condition kind is there and True.
func holds(conditions []metav1.Condition, kind string) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool { return c.Type == kind && c.Status == metav1.ConditionTrue })
}
