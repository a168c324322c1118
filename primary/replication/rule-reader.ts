import type { Logger } from '../../shared/observability/log.ts'
import type { Planner, PlannerOf } from '../store/rule-planner.ts'
import { createPlanner } from './plan.ts'

/**
 * Reads stored rules, each version of one once. One that cannot be read says so in the log, once, and selects nothing:
 * what it was checked by may have changed since.
 */
export function createRuleReader(log: Logger): PlannerOf {
  const known = new Map<number, { readonly version: string; readonly planner?: Planner }>()
  return (policy) => {
    const version = JSON.stringify([policy.filters, policy.deletion, policy.override])
    const found = known.get(policy.id)
    if (found?.version === version) return found.planner
    const planner = read(policy, log)
    known.set(policy.id, { version, ...(planner && { planner }) })
    return planner
  }
}

function read(policy: Parameters<PlannerOf>[0], log: Logger): Planner | undefined {
  try {
    return createPlanner(policy)
  } catch (err) {
    log.error({ err, policy: policy.id }, 'a replication rule cannot be read: change its filters')
    return undefined
  }
}
