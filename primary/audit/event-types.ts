import { auditedDeeds } from '../store/audit.ts'

/** What the audit log can tell of, as `operation_resource`. */
export const eventTypes: readonly string[] = Object.entries(auditedDeeds).flatMap(
  ([resource, operations]) => operations.map((operation) => `${operation}_${resource}`),
)
