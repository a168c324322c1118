import { ApiError } from '../../shared/api/errors.ts'
import { isRepositoryName } from '../../shared/oci/reference.ts'
import { requireProject, type Admitted } from '../accounts/guard.ts'
import type { Catalog, CatalogRepository } from '../store/catalog.ts'

/** Finds the repository of a path in the project of the path. @throws ApiError NOT_FOUND */
export type FindRepository = (
  params: { readonly repository_name: string },
  admitted: Admitted,
) => Promise<CatalogRepository>

/** Looks repositories up by what stands for them in a path: the name without its project. */
export function createFindRepository(catalog: Pick<Catalog, 'get'>): FindRepository {
  return async (params, admitted) => {
    const project = requireProject(admitted)
    const name = `${project.name}/${decodeName(params.repository_name)}`
    const repository = isRepositoryName(name) ? await catalog.get(project.id, name) : undefined
    if (repository === undefined) throw new ApiError('NOT_FOUND', 'there is no such repository')
    return repository
  }
}

/** The router has decoded once; Harbor's clients encode the name's slashes twice. */
function decodeName(name: string): string {
  try {
    return decodeURIComponent(name)
  } catch {
    return ''
  }
}
