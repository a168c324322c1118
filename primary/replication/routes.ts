import type { AdminApi } from '../accounts/admin-api.ts'
import { executionRoutes, type ExecutionRouteDeps } from './execution-routes.ts'
import { preheatRoutes, type PreheatRouteDeps } from './preheat-routes.ts'
import { policyRoutes, type PolicyRouteDeps } from './policy-routes.ts'
import { registryRoutes, type RegistryRouteDeps } from './registry-routes.ts'

/** Rules that bring images to edges, where they bring them, and what they did. */
export function replicationRoutes(
  api: AdminApi,
  deps: RegistryRouteDeps & PolicyRouteDeps & ExecutionRouteDeps & PreheatRouteDeps,
): void {
  registryRoutes(api, deps)
  policyRoutes(api, deps)
  executionRoutes(api, deps)
  preheatRoutes(api, deps)
}
