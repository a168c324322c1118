import type { AdminApi } from '../accounts/admin-api.ts'
import { artifactRoutes, type ArtifactRouteDeps } from './artifact-routes.ts'
import { labelRoutes, type LabelRouteDeps } from './label-routes.ts'

/** Artifacts and labels. */
export function catalogRoutes(api: AdminApi, deps: ArtifactRouteDeps & LabelRouteDeps): void {
  artifactRoutes(api, deps)
  labelRoutes(api, deps)
}
