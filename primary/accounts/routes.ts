import type { AdminApi } from './admin-api.ts'
import { robotRoutes, type RobotRouteDeps } from './robot-routes.ts'
import { userRoutes, type UserRouteDeps } from './user-routes.ts'

/** People and robots. */
export function accountRoutes(api: AdminApi, deps: UserRouteDeps & RobotRouteDeps): void {
  userRoutes(api, deps)
  robotRoutes(api, deps)
}
