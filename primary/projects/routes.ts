import type { AdminApi } from '../accounts/admin-api.ts'
import { memberRoutes, type MemberRouteDeps } from './member-routes.ts'
import { metadataRoutes } from './metadata-routes.ts'
import { projectRoutes, type ProjectRouteDeps } from './project-routes.ts'
import { repositoryRoutes, type RepositoryRouteDeps } from './repository-routes.ts'

/** Projects, their settings, members and repositories. */
export function projectRoomRoutes(
  api: AdminApi,
  deps: ProjectRouteDeps & MemberRouteDeps & RepositoryRouteDeps,
): void {
  projectRoutes(api, deps)
  metadataRoutes(api, deps)
  memberRoutes(api, deps)
  repositoryRoutes(api, deps)
}
